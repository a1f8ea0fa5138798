"""What outlives a request, and the jobs that it leaves."""
