"""What an operator sees: logs, metrics, health, systemd. Reads what others expose, as values."""
