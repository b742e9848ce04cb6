"""Connected Android devices, through adb and the runtimes' own benchmark programs."""
