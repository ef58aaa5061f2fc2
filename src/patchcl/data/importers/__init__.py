"""Where data sets come from: one file per source, each of which writes an nnU-Net raw folder."""
