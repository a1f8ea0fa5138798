"""`pagestream dlq`: what was given up, for a person to look at, to try again or to throw away."""
