"""`pagestream run-batch`: a file of requests answered without a server."""
