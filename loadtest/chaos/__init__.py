"""Breaks real processes under load, and counts every token: `pagestream chaos`."""
