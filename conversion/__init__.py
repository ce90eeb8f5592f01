"""Foreign weights in: checkpoints of ALBEF and AMC (`.pth`), and encoders of timm, DINO and BERT to start from."""
