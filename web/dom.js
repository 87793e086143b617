/** Make an element: `data-…` and `aria-…` go to attributes, the rest to properties, falsy children are left out. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter(Boolean));
  return made;
}

/** The element that carries a data-testid; the page and its tests share these names. */
export function byTest(name) {
  return document.querySelector(`[data-testid="${name}"]`);
}

/**
 * Make the children of `parent` those of `items`, in order, keeping the elements of keys that stay, so that
 * focus, checked boxes and running videos survive.
 */
export function reconcile(parent, items, { key, create, update, remove }) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const name = key(item);
    let child = old.get(name);
    if (child) old.delete(name);
    else {
      child = create(item);
      child.dataset.key = name;
    }
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    update?.(child, item);
  });
  for (const child of old.values()) {
    remove?.(child);
    child.remove();
  }
}

/** A round badge with a person's initials, in a colour that is always the same for the same id. */
export function avatar(name, id) {
  const made = element("span", { className: "avatar", textContent: initials(name), "aria-hidden": "true" });
  made.style.setProperty("--hue", String(hue(id)));
  return made;
}

function initials(name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const one = [...(words[0] ?? "?")].slice(0, 2);
  const letters = words.length > 1 ? [words[0], words.at(-1)].map((word) => [...word][0]) : one;
  return letters.join("").toUpperCase();
}

function hue(id) {
  let sum = 7;
  for (const character of id) sum = (sum * 31 + character.codePointAt(0)) % 3600;
  // Mixed once more: short ids that differ little are to differ much in color.
  return (sum * 137) % 360;
}
