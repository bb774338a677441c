"""From what went wrong to whose fault it is and what it depends on."""
