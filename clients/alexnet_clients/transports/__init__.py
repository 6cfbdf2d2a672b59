"""How requests travel. Only this room imports `tritonclient`, gRPC and HTTP libraries, each on first use."""
