"""Real clusters and servers, brought up by tests on loopback."""
