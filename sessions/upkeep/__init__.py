"""What keeps sessions in order while nobody asks: the reaper, instances, events."""
