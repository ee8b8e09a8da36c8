"""What things are: secrets, money, durations and the models of the service."""
