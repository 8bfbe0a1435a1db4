"""What a training loop costs: this library, loops written by hand and other libraries, measured side by side."""
