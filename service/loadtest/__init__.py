"""Put a server under an open load and say how long its answers take."""
