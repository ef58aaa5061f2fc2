"""The verb `compare`: many methods, label budgets and seeds, run side by side and shown as one answer."""
