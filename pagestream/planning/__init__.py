"""What a model takes of memory: the arithmetic behind `pagestream plan`."""
