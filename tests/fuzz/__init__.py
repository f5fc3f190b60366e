"""What clients can send, to everything that reads it; for hypothesis and for atheris alike."""
