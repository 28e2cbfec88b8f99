"""The command line beside running a study, a command a file; what one needs is imported when it is called."""
