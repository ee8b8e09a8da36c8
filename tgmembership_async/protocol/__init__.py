"""What may be said to the service and what its answers mean: pure, no I/O, no clock but the one handed in."""
