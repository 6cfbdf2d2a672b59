"""How requests are carried. Only here are `tritonclient`, gRPC and HTTP libraries imported, on first use."""
