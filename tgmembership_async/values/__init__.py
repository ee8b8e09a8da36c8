"""Value types: secrets, money, durations, and models of the service's results."""
