"""Talking to a server from a terminal: `pagestream chat` and `pagestream complete`."""
