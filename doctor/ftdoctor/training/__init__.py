"""The parts of a fine-tuning script that go wrong silently, done right; each is usable alone in a plain Trainer."""
