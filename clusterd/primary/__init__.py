"""The asyncio shell around the core: real sockets, processes and signals.

Rule: no decisions. What happens becomes an event, what the core commands is done, and nothing here blocks.
"""
