"""What an operator sees: logs, and later metrics, health and systemd."""
