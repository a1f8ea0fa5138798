"""The whole stack in one thread on a simulated bus and clock: one seed chooses every delay, loss, crash and pause.

Real are the scheduler's term, the gateway's routing and the worker's life. Simulated are their shells, Redis, the
network between them, the clock and the model, whose token i is a function of the request and of all tokens before it.
"""
