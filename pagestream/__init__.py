"""pagestream: the command line, the local stack and the offline API."""
