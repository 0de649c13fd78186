"""What every model has, made from its definition: training, promotion, prediction, monitoring, retraining."""
