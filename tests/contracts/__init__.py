"""What everything of a kind keeps, as classes of tests that the tests of one of its kind inherit."""
