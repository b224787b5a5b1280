from anylocal_bert import capture_text, minilm, plot
model, tokenizer = minilm.load()      # or any other model of transformers
maps = capture_text(model, tokenizer, "The animal slept because it was tired.")
plot.lines(maps[5], head=11, query="it")
