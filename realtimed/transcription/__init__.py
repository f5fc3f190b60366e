"""How audio becomes engine requests and tokens become text: framers, segments, the clock."""
