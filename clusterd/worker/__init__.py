"""What runs in a worker, after the fork: birth, the link to the primary, the mailboxes, the engines.

Rule: nothing of the primary, nothing of the core, nothing of the siblings.
"""
