"""clusterd runs a service as one primary and N workers that share its ports: Node.js's ``cluster``, for Python."""
