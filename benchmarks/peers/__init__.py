"""The measured programs: each module runs in its own process, takes a job as JSON and prints one line of JSON."""
