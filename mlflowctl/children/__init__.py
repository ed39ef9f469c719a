"""Scripts that run by path in another interpreter or a process of their own; they import nothing of mlflowctl."""
