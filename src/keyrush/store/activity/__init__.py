"""What was asked of an app, in a SQL store. By the driver, as what every flush writes is."""
