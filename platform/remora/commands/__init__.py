"""What each verb of the command line does, one module a theme, one function a verb."""
