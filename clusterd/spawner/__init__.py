"""The zygote, exec'd once per pool and generation, and the primary's end of it.

Rule: one thread, blocking, no asyncio in the zygote; it serves nothing, decides nothing and is nobody's parent.
"""
