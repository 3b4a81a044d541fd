"""The use: training on labels, and measuring, predicting and exporting what came of it."""
