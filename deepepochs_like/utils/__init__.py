"""Helpers for users' scripts. They know nothing of training; each module has one subject."""
