"""realtimed: live speech-to-text on vLLM, as a standalone Trio WebSocket daemon."""

__version__ = "0.1.0"
