"""What is measured: each module runs as a process of its own, takes a job as JSON and prints one line of JSON."""
