"""Pages, and what is beside them."""

from django.urls import path

from calls import views

urlpatterns = [
    path("", views.people, name="people"),
    path("call/", views.call, name="call"),
    path("history/", views.history, name="history"),
    path("history.json", views.history_json, name="history-json"),
    path("calls/token/", views.token, name="calls-token"),
    path("calls/webhook/", views.webhook, name="calls-webhook"),
]
