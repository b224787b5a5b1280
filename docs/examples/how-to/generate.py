"""
What an answer looked at
========================

``generate()`` runs the model once for the prompt and once for each further token. Each
of these forward passes has maps of its own, with one row for one new token.
:meth:`~anylocal.attention.AttentionMaps.generation` joins them to one map for each
layer, over the tokens of prompt and answer.

The model is small, so that it can be trained here in a few seconds: it learns to repeat
eight random letters.
"""

# sphinx_gallery_thumbnail_number = 1

import torch
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

tokenizer = ByT5Tokenizer()  # a token for each letter
config = LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    eos_token_id=None,
    pad_token_id=tokenizer.pad_token_id,
)
torch.manual_seed(0)
model = LlamaForCausalLM(config)
first, last = tokenizer.convert_tokens_to_ids(["a", "z"])
(equals,) = tokenizer.convert_tokens_to_ids(["="])
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(150):
    word = torch.randint(first, last + 1, (64, 8))
    text = torch.cat([word, torch.full((64, 1), equals), word], dim=1)
    logits = model(text[:, :-1]).logits[:, 8:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), word.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# One map for each layer
# ----------------------

from anylocal_bert import capture_attention

inputs = tokenizer("owlhunts=", add_special_tokens=False, return_tensors="pt")
model.eval()
with capture_attention(model, tokenizer=tokenizer) as maps:
    text = model.generate(**inputs, max_new_tokens=8, do_sample=False)
tokenizer.decode(text[0])

# %%
# Eight forward passes, and what they make together. The last token of the answer was
# never read by the model, so it has no row.

len(maps.forwards)

# %%

joined = maps.generation()
joined

# %%
# The rows below the prompt are those of the answer. To repeat the word, each letter
# looks for the place where it occurred before, and there at the letter that came next.

from anylocal_bert import plot

ax = plot.tokens(joined[1], head=0)

# %%
# Everything that takes maps takes these: pictures, pages, statistics, rollout.

answer = slice(inputs["input_ids"].shape[1], None)
joined[1][0, 0, answer].argmax(-1)

# %%
# Nothing is computed before it is read: a row is computed from the query of its step
# and the keys in its cache. The cache may grow, slide or be static, the batch may have
# padding on the left, and assisted decoding may take guesses back. Beams change places
# between steps: their maps are in ``maps.forwards`` only.

# %%
# The interactive page has a slider over the steps. It tells the token that each step
# read and the one that it wrote, and shows what the former attended to:

from anylocal.view import explore

explore(joined, title="Repeating a word")
