"""The HTTP door: authentication, the routes of each dialect, the native ones, health."""
