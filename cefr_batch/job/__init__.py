"""What runs inside a job: the supervisor, its heartbeat, what it stores, and the table of stages."""
