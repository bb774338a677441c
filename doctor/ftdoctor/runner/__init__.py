"""Plans cells, runs each in a process of its own, collects what becomes of them. It knows no probe."""
