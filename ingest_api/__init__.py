"""Takes clicks over HTTP: authenticate, throttle, validate, issue a transaction-id, publish, answer."""
