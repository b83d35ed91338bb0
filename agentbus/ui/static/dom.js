// Makes elements. Text of others gets into the page here and nowhere else, as text nodes: nothing of it is ever markup.

export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

export function add(element, children) {
  for (const child of children.flat(4)) {
    if (child === undefined || child === null || child === false || child === "") continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

// The same for a part that a person may be using: what had the focus has it again.
export function refill(element, ...children) {
  const focused = element.contains(document.activeElement) && document.activeElement.dataset.focus;
  fill(element, ...children);
  if (focused) element.querySelector(`[data-focus="${focused}"]`)?.focus();
  return element;
}

// Brings the children of a list into the order of its rows: an element is made anew only if its row is another one.
export function arrange(list, order, rows, make) {
  const old = new Map([...list.children].map((element) => [element.dataset.key, element]));
  let at = list.firstElementChild;
  for (const key of order) {
    const row = rows[key];
    let element = old.get(key);
    if (!element || (element.shownRow !== row && JSON.stringify(element.shownRow) !== JSON.stringify(row))) {
      const made = make(row, key);
      made.dataset.key = key;
      made.shownRow = row;
      if (element) {
        const focused = element.contains(document.activeElement) && document.activeElement.dataset.focus;
        if (element === at) at = made;
        element.replaceWith(made);
        if (focused) made.querySelector(`[data-focus="${focused}"]`)?.focus();
      }
      element = made;
    }
    old.delete(key);
    if (element === at) at = at.nextElementSibling;
    else list.insertBefore(element, at);
  }
  for (const element of old.values()) element.remove();
}

export function setWidth(element, share) {
  element.style.width = `${Math.max(0, Math.min(100, share * 100)).toFixed(2)}%`;
  return element;
}
