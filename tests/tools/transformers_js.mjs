// Answers questions with an exported run: node transformers_js.mjs PACKAGE FOLDER QUESTION...
// prints the ids of each question alone and of all together, as JSON.
import path from "node:path";
import { pathToFileURL } from "node:url";

const [packageFile, folder, ...questions] = process.argv.slice(2);
const { AutoModelForCausalLM, AutoTokenizer, env } = await import(pathToFileURL(packageFile));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder);
const name = path.basename(folder);
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForCausalLM.from_pretrained(name, { dtype: "fp32" });
for (const asked of [...questions, questions]) {
  const inputs = tokenizer(asked, { padding: true });
  const ids = await model.generate({ ...inputs, max_new_tokens: 12, do_sample: false });
  console.log(JSON.stringify(ids.tolist().map((row) => row.map(Number))));
}
