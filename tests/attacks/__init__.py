"""What hostile peers do, bounded in count and time, to a daemon on 127.0.0.1 and nowhere else.

    cd tests && python -m attacks NAME --port PORT --ca CA.pem --seconds 3 [--key KEY]

Each attack tells what its peers saw, counted: HTTP statuses, close codes, error codes, `closed` for
a connection that was closed without a word, `open` for one that was still there at the end.
"""
