/** The page at /api/docs: every operation of the OpenAPI document, with a form to try it. */

const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const described = await (await fetch("/api/openapi.json")).json();

/** Follow a reference into the document. */
const resolve = (schema) => {
  const name = schema?.$ref?.split("/").pop();
  return name ? described.components.schemas[name] : schema;
};

/** Something of the shape of a schema, to begin with. */
const example = (reference, depth = 0) => {
  const schema = resolve(reference) ?? {};
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  const choice = schema.anyOf?.find(({ type }) => type !== "null");
  if (choice) return null;
  if (schema.type === "object" || schema.properties) {
    if (depth > 3) return {};
    return Object.fromEntries(Object.entries(schema.properties ?? {}).map(([key, value]) => [key, example(value, depth + 1)]));
  }
  return { array: [], integer: schema.minimum ?? 0, number: schema.minimum ?? 0, boolean: false, string: "" }[schema.type] ?? null;
};

const call = async (method, url, body) => {
  const headers = { Authorization: `Bearer ${$("token").value.trim()}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(url, { method, headers, body });
  const text = await response.text();
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch { /* not JSON: shown as it is */ }
  return { ok: response.ok, text: `${response.status} ${response.statusText}\n${shown}` };
};

const operation = (path, method, { operationId, summary, parameters = [], requestBody }) => {
  const fields = parameters.map((parameter) => {
    const input = make("input", { name: parameter.name, required: parameter.required, title: parameter.description ?? "" });
    return [parameter, input, make("label", {}, `${parameter.name}${parameter.required ? " *" : ""}`, input)];
  });
  const schema = requestBody?.content["application/json"].schema;
  const body = schema && make("textarea", { name: "body", spellcheck: false, value: JSON.stringify(example(schema), null, 2) });
  const answer = make("pre", { hidden: true });
  const form = make("form", {}, ...fields.map(([, , label]) => label));
  if (body) form.append(make("label", { className: "body" }, "body", body));
  form.append(make("button", { type: "submit" }, "Send"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let url = path;
    const query = new URLSearchParams();
    for (const [{ name, in: place }, { value }] of fields) {
      if (place === "path") url = url.replace(`{${name}}`, encodeURIComponent(value));
      else if (value) query.set(name, value);
    }
    answer.hidden = false;
    answer.textContent = "…";
    try {
      const { ok, text } = await call(method.toUpperCase(), query.size ? `${url}?${query}` : url, body?.value);
      answer.textContent = text;
      answer.dataset.ok = ok;
    } catch (error) {
      answer.textContent = `The server cannot be reached: ${error.message}`;
      answer.dataset.ok = false;
    }
  });
  const word = make("span", { className: "method" }, method.toUpperCase());
  word.dataset.method = method;
  const head = make("summary", {}, word, make("code", {}, path), make("span", {}, summary));
  return make("details", { id: operationId }, head, form, answer);
};

$("operations").replaceChildren(
  ...Object.entries(described.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, entry]) => operation(path, method, entry))),
);

// A server for development gives tokens away.
const takeToken = (name) => fetch("/dev/token", {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ name }),
});
$("dev").hidden = (await takeToken("")).status === 404;
$("who").addEventListener("submit", async (event) => {
  event.preventDefault();
  const response = await takeToken($("name").value);
  const answer = await response.json();
  if (response.ok) $("token").value = answer.token;
  $("said").textContent = response.ok ? `You are ${answer.user_id}.` : answer.detail;
});
