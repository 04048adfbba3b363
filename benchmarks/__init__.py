"""Speed, side by side with peers (`make bench`): never part of the tests."""
